data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

locals {
  account_id = data.aws_caller_identity.this.account_id
}

module "names" {
  source = "../../modules/names"

  project    = var.project
  account_id = local.account_id
  region     = var.region
}
