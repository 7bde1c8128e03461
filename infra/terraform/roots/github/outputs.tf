output "role_arns" {
  description = "Role of each environment of GitHub: its variable AWS_ROLE there."
  value       = { for name, role in aws_iam_role.this : name => role.arn }
}

output "publishing_policies" {
  description = "Policies for people who push models and data, to attach to their own roles: no workflow does. JSON by name."
  value       = { registry = module.policies["build"].registry, dvc = module.policies["build"].dvc }
}

output "signing_key" {
  description = "Value of the workflows' variable SIGNING_KEY: the key that this root made; empty if it made none."
  value       = var.create_signing_key ? "awskms:///${aws_kms_alias.signing[0].name}" : ""
}
