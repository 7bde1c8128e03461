output "role_arns" {
  description = "Role for each kind of workflow: `role-to-assume` of aws-actions/configure-aws-credentials."
  value       = { for name, role in aws_iam_role.this : name => role.arn }
}
