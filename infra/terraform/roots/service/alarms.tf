# Who is told, and of what. What the service measures itself is in infra/observability/catalogue.toml, and its alarms in the
# generated module; here are the alarms on what only AWS can see.

data "aws_iam_policy_document" "alarms" {
  statement {
    sid       = "AlarmsAndBudget"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.alarms.arn]

    principals {
      type        = "Service"
      identifiers = ["budgets.amazonaws.com", "cloudwatch.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account_id]
    }
  }

  statement {
    sid       = "ManagedPrometheus"
    actions   = ["sns:GetTopicAttributes", "sns:Publish"] # both are asked for when the alert manager is made
    resources = [aws_sns_topic.alarms.arn]

    principals {
      type        = "Service"
      identifiers = ["aps.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account_id]
    }
  }
}

resource "aws_sns_topic" "alarms" {
  #checkov:skip=CKV_AWS_26:CloudWatch cannot publish under SNS's own key (alias/aws/sns); kms_key_arn sets one that lets it
  name              = "${local.name}-alarms"
  kms_master_key_id = var.kms_key_arn
}

resource "aws_sns_topic_policy" "alarms" {
  arn    = aws_sns_topic.alarms.arn
  policy = data.aws_iam_policy_document.alarms.json
}

resource "aws_sns_topic_subscription" "email" {
  for_each = toset(var.alarm_emails)

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = each.key
}

module "slack" {
  source = "../../modules/slack"
  count  = var.slack_webhook_parameter == null ? 0 : 1

  name               = "${local.name}-slack"
  topic_arn          = aws_sns_topic.alarms.arn
  webhook_parameter  = var.slack_webhook_parameter
  log_retention_days = var.log_retention_days
  kms_key_arn        = var.kms_key_arn
}

module "alarms" {
  source = "../../modules/alarms"

  name          = local.name
  function_name = aws_lambda_function.this.function_name
  alias_name    = aws_lambda_alias.live.name
  sns_topic_arn = aws_sns_topic.alarms.arn

  service_name     = lookup(var.function_environment, "OTEL_SERVICE_NAME", "kiln")
  burn_rate_alarms = var.burn_rate_alarms
}

locals {
  live = {
    FunctionName = aws_lambda_function.this.function_name
    Resource     = "${aws_lambda_function.this.function_name}:${aws_lambda_alias.live.name}"
  }
  # name => what AWS measures, and the sum in a minute above which somebody should look
  platform_alarms = merge(
    {
      function-errors = {
        namespace = "AWS/Lambda", metric = "Errors", dimensions = local.live, above = 0
        meaning   = "Calls of the alias crashed or ran out of time. Errors with an answer are in error-share."
      }
      function-throttles = {
        namespace = "AWS/Lambda", metric = "Throttles", dimensions = local.live, above = 0
        meaning   = "Calls were turned away: raise reserved_concurrency, or the account's limit."
      }
    },
    { for key, queue in aws_sqs_queue.failures : "failures-queued" => {
      namespace  = "AWS/SQS", metric = "ApproximateNumberOfMessagesVisible", above = 0
      dimensions = { QueueName = queue.name }
      meaning    = "Asynchronous calls failed to the end; the queue has their events and why."
    } },
    var.watcher_image_uri == null ? {} : {
      watcher-errors = {
        namespace  = "AWS/Lambda", metric = "Errors", above = 0
        dimensions = { FunctionName = "${local.name}-watch" }
        meaning    = "The function that ends releases without a run fails: its log says why, //infra:status where the traffic goes."
      }
    },
    var.api ? {
      api-server-errors = {
        namespace  = "AWS/ApiGateway", metric = "5xx", above = 0
        dimensions = { ApiId = aws_apigatewayv2_api.this["this"].id }
        meaning    = "Callers got answers 5xx, from the function or from the API itself."
      }
    } : {},
  )
}

resource "aws_cloudwatch_metric_alarm" "platform" {
  for_each = local.platform_alarms

  alarm_name          = "${local.name}-${each.key}"
  alarm_description   = each.value.meaning
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.namespace == "AWS/SQS" ? "Maximum" : "Sum"
  period              = 60 # seconds
  evaluation_periods  = 5
  datapoints_to_alarm = 2 # in five minutes: one crashed instance wakes nobody
  threshold           = each.value.above
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
}
