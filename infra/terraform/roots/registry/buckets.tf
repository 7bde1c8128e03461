module "models" {
  source = "../../modules/bucket"

  name              = module.names.models_bucket
  kms_key_arn       = var.kms_key_arn
  noncurrent_days   = 90
  access_log_bucket = var.access_log_bucket
  tls_only          = var.tls_only
  force_destroy     = var.force_destroy
}

module "dvc" {
  source = "../../modules/bucket"

  name              = module.names.dvc_bucket
  kms_key_arn       = var.kms_key_arn
  noncurrent_days   = 30 # its objects have their hash for a name: a replaced one is the same
  access_log_bucket = var.access_log_bucket
  tls_only          = var.tls_only
  force_destroy     = var.force_destroy
}

module "ledger" {
  source = "../../modules/bucket"

  name              = module.names.ledger_bucket
  kms_key_arn       = var.kms_key_arn
  noncurrent_days   = 0 # who released what is kept for ever; it is small
  access_log_bucket = var.access_log_bucket
  tls_only          = var.tls_only
  force_destroy     = var.force_destroy
}
