# What one root makes and another uses: agreed here, so that no root reads another's state.

output "ecr_repository" {
  description = "Repository of the service's images, without the registry's host."
  value       = var.project
}

output "state_bucket" {
  description = "Bucket of Terraform's state."
  value       = "${local.prefix}-state"
}

output "models_bucket" {
  description = "Bucket of the model registry: KILN_REGISTRY is s3://BUCKET/registry."
  value       = "${local.prefix}-models"
}

output "dvc_bucket" {
  description = "Bucket of the DVC remote: s3://BUCKET/dvc."
  value       = "${local.prefix}-dvc"
}

output "ledger_bucket" {
  description = "Bucket of the release ledger; each environment has a prefix of its own."
  value       = "${local.prefix}-ledger"
}

output "captures_bucket" {
  description = "First part of the names of the buckets for captured answers; each environment has one: THIS-<environment>."
  value       = "${local.prefix}-captures"
}
