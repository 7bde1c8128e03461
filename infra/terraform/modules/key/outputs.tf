output "arn" {
  description = "The key's ARN: give it to the other roots as kms_key_arn."
  value       = aws_kms_key.this.arn
}
