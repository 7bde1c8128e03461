data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

locals {
  name       = "${var.project}-${var.environment}"
  account_id = data.aws_caller_identity.this.account_id
  alias_name = "live"
}

# Made by the root `registry`; named here by the same rule.
module "names" {
  source = "../../modules/names"

  project    = var.project
  account_id = local.account_id
  region     = var.region
}
