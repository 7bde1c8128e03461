# One alarm for each alert of infra/observability/catalogue.toml that CloudWatch can watch. The generated alarms.tf.json
# beside this file has them as `local.alarms`; here is how an entry becomes a resource:
#
#   "slow-answers": {
#     "description":  what it means and what to do,
#     "threshold":    number that the one query with return_data is compared with,
#     "comparison":   "GreaterThanThreshold" if left out,
#     "evaluation_periods", "datapoints_to_alarm": 1 if left out,
#     "treat_missing_data": "notBreaching" if left out,
#     "queries": {
#       "id": {"expression": "100 * failed / all", "label": "…", "return_data": true},
#       "id": {"namespace": "Kiln", "metric_name": "…", "dimensions": {…}, "period": seconds, "stat": "p99", "return_data": false}
#     }
#   }
#
# Strings are templates of Terraform: "${var.function_name}" works.

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  comparison_operator = try(each.value.comparison, "GreaterThanThreshold")
  threshold           = each.value.threshold
  evaluation_periods  = try(each.value.evaluation_periods, 1)
  datapoints_to_alarm = try(each.value.datapoints_to_alarm, 1)
  treat_missing_data  = try(each.value.treat_missing_data, "notBreaching")
  alarm_actions       = [var.sns_topic_arn]
  ok_actions          = [var.sns_topic_arn]

  dynamic "metric_query" {
    for_each = each.value.queries

    content {
      id          = metric_query.key
      expression  = try(metric_query.value.expression, null)
      label       = try(metric_query.value.label, null)
      return_data = try(metric_query.value.return_data, false)

      dynamic "metric" {
        for_each = can(metric_query.value.metric_name) ? [metric_query.value] : []

        content {
          namespace   = metric.value.namespace
          metric_name = metric.value.metric_name
          dimensions  = try(metric.value.dimensions, {})
          period      = metric.value.period
          stat        = metric.value.stat
        }
      }
    }
  }
}
