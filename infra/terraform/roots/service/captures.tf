# Captured answers (serve/capture): pixels of callers' images, so they are private, short-lived, and off unless asked for.

locals {
  captures_bucket = "${module.names.captures_bucket}-${var.environment}"
  captures_arn    = "arn:${data.aws_partition.this.partition}:s3:::${local.captures_bucket}"
  captures_url    = var.capture ? "s3://${local.captures_bucket}" : ""
  capture_environment = var.capture ? {
    KILN_CAPTURE        = local.captures_url
    KILN_CAPTURE_SHARE  = tostring(var.capture_share)
    KILN_CAPTURE_UNSURE = tostring(var.capture_unsure)
  } : {}
}

module "captures" {
  count  = var.capture ? 1 : 0
  source = "../../modules/bucket"

  name            = local.captures_bucket
  kms_key_arn     = var.kms_key_arn
  retention_days  = var.capture_retention_days
  noncurrent_days = 1 # what was deleted by request id is gone within two days, and not kept as a version
  tls_only        = var.tls_only
  force_destroy   = var.capture_force_destroy
}
