output "repository" {
  description = "Where images go: bazel run //serve:push_image -- --repository THIS"
  value       = aws_ecr_repository.this.repository_url
}

output "registry" {
  description = "The model registry: KILN_REGISTRY."
  value       = "s3://${module.models.name}/registry"
}

output "dvc_remote" {
  description = "The DVC remote: dvc remote add --default s3 THIS"
  value       = "s3://${module.dvc.name}/dvc"
}

output "ledger_bucket" {
  description = "Bucket of the release ledger."
  value       = module.ledger.name
}
