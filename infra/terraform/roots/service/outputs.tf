# infra/terraform/service.py reads these, and watcher.tf passes them on.

locals {
  api_url      = var.domain != null && var.api ? "https://${var.domain.name}" : try(trimsuffix(aws_apigatewayv2_stage.this["this"].invoke_url, "/"), "")
  function_url = try(trimsuffix(aws_lambda_function_url.live["this"].function_url, "/"), "")
  alarm_names = concat(
    [for alarm in aws_cloudwatch_metric_alarm.platform : alarm.alarm_name],
    module.alarms.names,
    module.alarms.burn_rate_names,
  )
  page_alarm_names = concat([aws_cloudwatch_metric_alarm.platform["function-errors"].alarm_name], module.alarms.page_names)
}

output "function_name" {
  description = "Name of the Lambda function."
  value       = aws_lambda_function.this.function_name
}

output "alias_name" {
  description = "Alias that callers use; the release manager shifts it."
  value       = aws_lambda_alias.live.name
}

output "published_version" {
  description = "Version of the function that the last apply published, or found to be the same."
  value       = aws_lambda_function.this.version
}

output "api_url" {
  description = "Address of the service, without a slash at the end; empty without an API."
  value       = local.api_url
}

output "function_url" {
  description = "Address of the alias for callers with AWS credentials, without a slash at the end; empty if switched off."
  value       = local.function_url
}

output "watcher_image_uri" {
  description = "Image of the function that ends releases whose run is gone; null if there is none. Whoever names none next time keeps it."
  value       = var.watcher_image_uri
}

output "ledger_bucket" {
  description = "Bucket of the release ledger."
  value       = module.names.ledger_bucket
}

output "ledger_prefix" {
  description = "Prefix of this environment's ledger in the bucket, without slashes around it."
  value       = var.environment
}

output "ecr_repository" {
  description = "Repository of the service's images, without the registry's host."
  value       = module.names.ecr_repository
}

output "sns_topic_arn" {
  description = "Topic of all alarms."
  value       = aws_sns_topic.alarms.arn
}

output "alarm_names" {
  description = "Names of all alarms: of the platform, of the catalogue, and of the error budgets."
  value       = local.alarm_names
}

output "page_alarm_names" {
  description = "Those that wake somebody: any of them takes a release back."
  value       = local.page_alarm_names
}

output "failure_queue_url" {
  description = "Queue of the asynchronous calls that failed to the end; empty if switched off."
  value       = try(aws_sqs_queue.failures["this"].url, "")
}

output "captures_url" {
  description = "Where captured answers lie, KILN_CAPTURE of the offline commands; empty if switched off."
  value       = local.captures_url
}

output "log_group" {
  description = "Log group of the function."
  value       = aws_cloudwatch_log_group.function.name
}

output "region" {
  description = "AWS region of all this."
  value       = var.region
}
