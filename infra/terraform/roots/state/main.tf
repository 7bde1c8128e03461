# The bucket of all other roots' state. Its own state begins in a folder and can then move into the bucket: README.md.

data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

module "key" {
  source = "../../modules/key"
  count  = var.create_key ? 1 : 0

  name       = var.project
  account_id = data.aws_caller_identity.this.account_id
  region     = var.region
  partition  = data.aws_partition.this.partition
}

locals {
  kms_key_arn = var.create_key ? module.key[0].arn : var.kms_key_arn
}

module "names" {
  source = "../../modules/names"

  project    = var.project
  account_id = data.aws_caller_identity.this.account_id
  region     = var.region
}

module "state" {
  source = "../../modules/bucket"

  name              = module.names.state_bucket
  kms_key_arn       = local.kms_key_arn
  noncurrent_days   = var.noncurrent_days # a lost state can be taken back for so long
  access_log_bucket = var.access_log_bucket
  tls_only          = var.tls_only
}
