# The release manager's loop on a schedule: it goes on with a release whose run is gone, so that the end of a CI job leaves no
# split. The same code and the same permissions as //infra:deploy; infra/release/commands/watch.py.

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_158:kms_key_arn sets a customer-managed key; without, CloudWatch Logs encrypts with its own
  #checkov:skip=CKV_AWS_338:log_retention_days decides; the ledger keeps what was decided
  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_115:the release manager's lease lets one work at a time, and the others end at once
  #checkov:skip=CKV_AWS_116:the next minute tries again
  #checkov:skip=CKV_AWS_117:it reaches AWS's APIs, and nothing inside a VPC
  #checkov:skip=CKV_AWS_173:its variables are names
  #checkov:skip=CKV_AWS_272:signatures of Lambda are for zip files
  function_name = var.name
  description   = "Ends releases that nobody runs any more"
  role          = aws_iam_role.this.arn
  package_type  = "Image"
  image_uri     = var.image_uri
  architectures = ["x86_64"]
  memory_size   = 1024
  timeout       = 900 # the longest that Lambda allows; a hold that lasts longer is gone on with by the next call
  kms_key_arn   = var.kms_key_arn

  environment {
    variables = { KILN_ENV = var.environment, KILN_SERVICE_OUTPUTS = jsonencode(var.outputs) }
  }

  tracing_config {
    mode = "PassThrough"
  }

  lifecycle {
    ignore_changes = [image_config] # the image says what it runs; moto answers with an empty one that nobody asked for
  }

  depends_on = [aws_cloudwatch_log_group.this] # else Lambda makes it, and keeps logs for ever
}

# A call that failed is not repeated: the next minute's comes anyway.
resource "aws_lambda_function_event_invoke_config" "this" {
  function_name                = aws_lambda_function.this.function_name
  maximum_event_age_in_seconds = 60
  maximum_retry_attempts       = 0
}

resource "aws_cloudwatch_event_rule" "this" {
  name                = var.name
  description         = "Looks for a release that nobody runs any more"
  schedule_expression = "rate(1 minute)"
}

resource "aws_cloudwatch_event_target" "this" {
  rule = aws_cloudwatch_event_rule.this.name
  arn  = aws_lambda_function.this.arn
}

resource "aws_lambda_permission" "events" {
  statement_id  = "events"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.this.function_name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.this.arn
}
