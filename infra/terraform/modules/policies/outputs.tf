output "push_image" {
  description = "Push images to ECR: JSON."
  value       = data.aws_iam_policy_document.push_image.json
}

output "registry" {
  description = "Read and write the model registry: JSON."
  value       = data.aws_iam_policy_document.registry.json
}

output "dvc" {
  description = "Push to and pull from the DVC remote: JSON."
  value       = data.aws_iam_policy_document.dvc.json
}

output "release" {
  description = "Release, roll back and watch the service of the environment: JSON."
  value       = data.aws_iam_policy_document.release.json
}

output "terraform" {
  description = "Plan, apply and destroy the function of the root `service` of the environment, its roles and its API: JSON."
  value       = data.aws_iam_policy_document.terraform.json
}

output "terraform_operations" {
  description = "The same for its logs, alarms, dashboard, queue and topic, and for the budget: JSON. Terraform needs both."
  value       = data.aws_iam_policy_document.terraform_operations.json
}

output "key" {
  description = "Read and write what the customer-managed key encrypts: JSON; no statement without a key."
  value       = data.aws_iam_policy_document.key.json
}
