# The bucket of all other roots' state. Its own state begins in a folder and can then move into the bucket: README.md.

data "aws_caller_identity" "this" {}

module "names" {
  source = "../../modules/names"

  project    = var.project
  account_id = data.aws_caller_identity.this.account_id
  region     = var.region
}

module "state" {
  source = "../../modules/bucket"

  name              = module.names.state_bucket
  kms_key_arn       = var.kms_key_arn
  noncurrent_days   = var.noncurrent_days # a lost state can be taken back for so long
  access_log_bucket = var.access_log_bucket
  tls_only          = var.tls_only
}
