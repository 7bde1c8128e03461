output "bucket" {
  description = "Bucket of Terraform's state: give it to commands as s3://BUCKET/terraform."
  value       = module.state.name
}
