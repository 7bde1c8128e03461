output "bucket" {
  description = "Bucket of Terraform's state: give it to commands as s3://BUCKET/terraform."
  value       = module.state.name
}

output "kms_key_arn" {
  description = "The key that encrypts the state: give it to the other roots as kms_key_arn; null: S3's own."
  value       = local.kms_key_arn
}
