# Asynchronous calls: shadow traffic of the release manager. What failed to the end is kept, with the reason.

resource "aws_sqs_queue" "failures" {
  #checkov:skip=CKV_AWS_27:encrypted by SQS's own keys unless kms_key_arn is set
  for_each = var.failure_queue ? { this = true } : {}

  name                      = "${local.name}-failures"
  message_retention_seconds = 14 * 24 * 3600 # the longest that SQS keeps anything
  sqs_managed_sse_enabled   = var.kms_key_arn == null ? true : null
  kms_master_key_id         = var.kms_key_arn
}

resource "aws_lambda_function_event_invoke_config" "live" {
  function_name                = aws_lambda_function.this.function_name
  qualifier                    = aws_lambda_alias.live.name
  maximum_event_age_in_seconds = 300 # a shadow request that is older tells nothing about now
  maximum_retry_attempts       = var.asynchronous_retries

  dynamic "destination_config" {
    for_each = aws_sqs_queue.failures

    content {
      on_failure {
        destination = destination_config.value.arn
      }
    }
  }

  depends_on = [aws_iam_role_policy.function] # Lambda checks that it may send to the queue
}
