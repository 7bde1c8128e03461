locals {
  # Names of buckets are shared by all of AWS: the account makes them ours.
  prefix = "${var.project}-${var.account_id}-${var.region}"
}
