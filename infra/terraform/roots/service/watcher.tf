# Off unless an image is named: it costs about a dollar a month.

module "policies" {
  source = "../../modules/policies"

  project     = var.project
  environment = var.environment
  account_id  = local.account_id
  region      = var.region
  partition   = data.aws_partition.this.partition
  kms_key_arn = var.kms_key_arn
}

module "watcher" {
  source = "../../modules/watcher"
  count  = var.watcher_image_uri == null ? 0 : 1

  name               = "${local.name}-watch"
  environment        = var.environment
  image_uri          = var.watcher_image_uri
  release_policy     = module.policies.release
  log_retention_days = var.log_retention_days
  kms_key_arn        = var.kms_key_arn

  outputs = {
    function_name    = aws_lambda_function.this.function_name
    alias_name       = aws_lambda_alias.live.name
    api_url          = local.api_url
    function_url     = local.function_url
    ledger_bucket    = module.names.ledger_bucket
    ledger_prefix    = var.environment
    ecr_repository   = module.names.ecr_repository
    sns_topic_arn    = aws_sns_topic.alarms.arn
    alarm_names      = local.alarm_names
    page_alarm_names = local.page_alarm_names
    region           = var.region
  }
}
