# What moto lacks, with a provider that answers by itself: nothing here reaches AWS.

mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }

  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }

  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/kiln" }
  }

  mock_resource "aws_lambda_function" {
    defaults = { arn = "arn:aws:lambda:eu-central-1:123456789012:function:kiln-prod" }
  }

  mock_resource "aws_lambda_alias" {
    defaults = {
      arn        = "arn:aws:lambda:eu-central-1:123456789012:function:kiln-prod:live"
      invoke_arn = "arn:aws:apigateway:eu-central-1:lambda:path/2015-03-31/functions/arn:aws:lambda:eu-central-1:123456789012:function:kiln-prod:live/invocations"
    }
  }

  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-central-1:123456789012:kiln-prod-alarms" }
  }

  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:eu-central-1:123456789012:kiln-prod-failures" }
  }

  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:kiln" }
  }

  mock_resource "aws_apigatewayv2_api" {
    defaults = { execution_arn = "arn:aws:execute-api:eu-central-1:123456789012:abc123" }
  }

  mock_resource "aws_apigatewayv2_domain_name" {
    defaults = { domain_name_configuration = { target_domain_name = "d-1.example.org", hosted_zone_id = "Z1" } }
  }
}

variables {
  environment = "prod"
  region      = "eu-central-1"
  image_uri   = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/kiln@sha256:0000000000000000000000000000000000000000000000000000000000000000"
}

run "by_default_the_alias_is_open_to_callers_with_credentials_alone" {
  assert {
    condition     = aws_lambda_function_url.live["this"].authorization_type == "AWS_IAM"
    error_message = "the function URL is open to anybody"
  }

  assert {
    condition     = length(aws_lambda_permission.function_url) == 0
    error_message = "another account is let in though none was named"
  }

  assert {
    condition     = length(aws_budgets_budget.this) == 0 && length(module.slack) == 0 && length(module.captures) == 0 && output.captures_url == ""
    error_message = "something was made that nobody asked for"
  }

  assert {
    condition     = length(output.alarm_names) > length(output.page_alarm_names) && length(module.alarms.burn_rate_names) > 0
    error_message = "the error budgets have no alarms"
  }
}

run "everything_that_can_be_switched_on" {
  variables {
    cors_origins       = ["https://example.org"]
    snap_start         = true
    monthly_budget_usd = 100
    domain = {
      name            = "api.example.org"
      certificate_arn = "arn:aws:acm:eu-central-1:123456789012:certificate/1"
      zone_id         = "Z123"
    }
    jwt                  = { issuer = "https://login.example.org", audience = ["kiln"], scopes = ["predict"] }
    function_url_callers = ["arn:aws:iam::210987654321:role/caller"]
    vpc                  = { subnet_ids = ["subnet-1"], security_group_ids = ["sg-1"] }
    kms_key_arn          = "arn:aws:kms:eu-central-1:123456789012:key/1"
  }

  assert {
    condition = length(setsubtract(
      ["ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"],
      flatten([for statement in data.aws_iam_policy_document.function.statement : statement.actions])
    )) == 0
    error_message = "Lambda cannot put the function into the VPC"
  }

  assert {
    condition     = aws_lambda_function.this.snap_start[0].apply_on == "PublishedVersions"
    error_message = "SnapStart is not on"
  }

  assert {
    condition     = output.api_url == "https://api.example.org" && aws_apigatewayv2_api.this["this"].disable_execute_api_endpoint
    error_message = "the API has a way around its own name"
  }

  assert {
    condition     = aws_route53_record.this["this"].name == "api.example.org"
    error_message = "the name has no record"
  }

  assert {
    condition     = aws_budgets_budget.this[0].limit_amount == "100.00" && one(aws_budgets_budget.this[0].cost_filter).values == tolist(["user:Project$kiln"])
    error_message = "the budget is another, or counts something else"
  }

  assert {
    condition     = aws_apigatewayv2_route.protected["$default"].authorization_type == "JWT" && alltrue([for key in ["GET /health", "GET /ready", "GET /v2/health/live", "GET /v2/health/ready", "OPTIONS /{proxy+}"] : aws_apigatewayv2_route.open[key].authorization_type == "NONE"]) && length(aws_apigatewayv2_route.open) == 5
    error_message = "the wrong routes ask for a token"
  }

  assert {
    condition     = length(aws_lambda_permission.function_url) == 1 && length(aws_lambda_permission.function_url_invoke) == 1
    error_message = "a caller of another account needs both permissions"
  }

  assert {
    condition     = aws_sns_topic.alarms.kms_master_key_id == var.kms_key_arn && aws_lambda_function.this.kms_key_arn == var.kms_key_arn
    error_message = "the key is not used"
  }
}

run "captured_answers_are_encrypted_short_lived_and_not_for_the_function_to_delete" {
  variables {
    capture                = true
    capture_retention_days = 7
    kms_key_arn            = "arn:aws:kms:eu-central-1:123456789012:key/1"
  }

  assert {
    condition     = output.captures_url == "s3://kiln-123456789012-eu-central-1-captures-prod" && aws_lambda_function.this.environment[0].variables.KILN_CAPTURE == output.captures_url
    error_message = "the function captures to another place"
  }

  assert {
    condition = toset(flatten([
      for statement in data.aws_iam_policy_document.function.statement : statement.actions if contains(["KeepAnswers", "FindAnswers"], statement.sid)
    ])) == toset(["s3:GetObject", "s3:PutObject", "s3:ListBucket"])
    error_message = "the function may do something else to captured answers"
  }

  assert {
    condition     = contains([for statement in data.aws_iam_policy_document.function.statement : statement.sid], "EncryptAnswers")
    error_message = "the function cannot use the bucket's key"
  }
}

run "the_smallest_service" {
  variables {
    api           = false
    function_url  = false
    failure_queue = false
    tracing       = false
  }

  assert {
    condition     = output.api_url == "" && output.function_url == "" && output.failure_queue_url == ""
    error_message = "something is there that was switched off"
  }
}

run "a_tag_is_no_image" {
  command = plan

  variables {
    image_uri = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/kiln:latest"
  }

  expect_failures = [var.image_uri]
}

run "every_other_wrong_value_is_refused" {
  command = plan

  variables {
    timeout_s               = 60 # longer than API Gateway waits
    memory_mb               = 100
    log_retention_days      = 31
    function_environment    = { PATH = "/" }
    cors_origins            = ["https://example.org/path"]
    throttle                = { rate = 0, burst = 1 }
    jwt                     = { issuer = "http://insecure.example.org", audience = ["kiln"] }
    function_url_callers    = ["*"]
    slack_webhook_parameter = "https://hooks.slack.com/services/x"
    alarm_emails            = ["nobody"]
    monthly_budget_usd      = -1
    capture_share           = 0
    capture_unsure          = 2
    capture_retention_days  = 0
  }

  expect_failures = [
    var.timeout_s, var.memory_mb, var.log_retention_days, var.function_environment, var.cors_origins, var.throttle, var.jwt,
    var.function_url_callers, var.slack_webhook_parameter, var.alarm_emails, var.monthly_budget_usd,
    var.capture_share, var.capture_unsure, var.capture_retention_days,
  ]
}
