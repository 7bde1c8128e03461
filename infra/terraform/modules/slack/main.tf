# SNS → Slack. A Lambda and no API destination of EventBridge, because the webhook's URL is the secret: a destination has it in
# its endpoint, readable by whoever may describe it, and in Terraform's state and plans. Here it is in one place, a
# SecureString of SSM that a person writes; Terraform and the function's settings know only its name.

data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

locals {
  parameter_arn = join(":", [
    "arn", data.aws_partition.this.partition, "ssm", split(":", var.topic_arn)[3],
    data.aws_caller_identity.this.account_id, "parameter${var.webhook_parameter}",
  ])
  package = "${path.module}/function.zip" # packed from function/ by infra/terraform/root.py
}

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_158:kms_key_arn sets a customer-managed key; without, CloudWatch Logs encrypts with its own
  #checkov:skip=CKV_AWS_338:log_retention_days decides
  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_115:it shares the account's concurrency; alarms are few
  #checkov:skip=CKV_AWS_116:SNS repeats what failed, and the alarm is in the e-mail too
  #checkov:skip=CKV_AWS_117:it reaches Slack and SSM, and nothing inside a VPC
  #checkov:skip=CKV_AWS_173:its one variable is a parameter's name
  #checkov:skip=CKV_AWS_272:whoever may change the function may change its signature too
  function_name    = var.name
  description      = "Tells Slack of alarms"
  role             = aws_iam_role.this.arn
  runtime          = "python3.13"
  architectures    = ["x86_64"]
  handler          = "slack.handler"
  filename         = local.package
  source_code_hash = filebase64sha256(local.package)
  memory_size      = 128
  timeout          = 15
  kms_key_arn      = var.kms_key_arn

  environment {
    variables = { WEBHOOK_PARAMETER = var.webhook_parameter }
  }

  tracing_config {
    mode = "PassThrough"
  }

  depends_on = [aws_cloudwatch_log_group.this] # else Lambda makes it, and keeps logs for ever
}

resource "aws_lambda_permission" "sns" {
  statement_id  = "sns"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.this.function_name
  principal     = "sns.amazonaws.com"
  source_arn    = var.topic_arn
}

resource "aws_sns_topic_subscription" "this" {
  topic_arn = var.topic_arn
  protocol  = "lambda"
  endpoint  = aws_lambda_function.this.arn

  depends_on = [aws_lambda_permission.sns]
}
