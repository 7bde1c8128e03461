locals {
  api = var.api ? { this = true } : {}
  # Callers prove who they are on every path but these: what monitors and orchestrators ask, and a browser's question before a cross-origin
  # call, which has no token and which $default would refuse.
  open_routes      = concat(["GET /health", "GET /ready", "GET /v2/health/live", "GET /v2/health/ready"], length(var.cors_origins) > 0 ? ["OPTIONS /{proxy+}"] : [])
  protected_routes = ["$default"]
}

resource "aws_apigatewayv2_api" "this" {
  for_each = local.api

  name          = local.name
  description   = "Kiln's image classifier, ${var.environment}"
  protocol_type = "HTTP"

  # With our own name in front, the generated one would be a way around it.
  disable_execute_api_endpoint = var.domain != null

  dynamic "cors_configuration" {
    for_each = length(var.cors_origins) > 0 ? [var.cors_origins] : []

    content { # CORS in serve/http/app.py, which a test compares; with this here, the API ignores what the function says
      allow_origins  = cors_configuration.value
      allow_methods  = ["GET", "POST"]
      allow_headers  = ["authorization", "content-type", "inference-header-content-length", "traceparent", "tracestate", "x-api-key"]
      expose_headers = ["inference-header-content-length", "retry-after", "x-model-version", "x-request-id"]
      max_age        = 3600 # seconds that a browser remembers the answer
    }
  }
}

resource "aws_apigatewayv2_integration" "function" {
  for_each = local.api

  api_id                 = aws_apigatewayv2_api.this[each.key].id
  integration_type       = "AWS_PROXY"
  integration_uri        = aws_lambda_alias.live.invoke_arn
  payload_format_version = "2.0"
  timeout_milliseconds   = min(30000, var.timeout_s * 1000 + 1000) # the function's own timeout comes first
}

resource "aws_apigatewayv2_authorizer" "jwt" {
  for_each = var.api && var.jwt != null ? { this = var.jwt } : {}

  api_id           = aws_apigatewayv2_api.this["this"].id
  name             = "jwt"
  authorizer_type  = "JWT"
  identity_sources = ["$request.header.Authorization"]

  jwt_configuration {
    issuer   = each.value.issuer
    audience = each.value.audience
  }
}

resource "aws_apigatewayv2_route" "open" {
  #checkov:skip=CKV_AWS_309:whether it lives and is ready is no secret
  for_each = var.api ? toset(local.open_routes) : toset([])

  api_id             = aws_apigatewayv2_api.this["this"].id
  route_key          = each.key
  target             = "integrations/${aws_apigatewayv2_integration.function["this"].id}"
  authorization_type = "NONE"
}

resource "aws_apigatewayv2_route" "protected" {
  #checkov:skip=CKV_AWS_309:jwt sets an authorizer; a public demo has none, and the service has API keys of its own
  for_each = var.api ? toset(local.protected_routes) : toset([])

  api_id               = aws_apigatewayv2_api.this["this"].id
  route_key            = each.key
  target               = "integrations/${aws_apigatewayv2_integration.function["this"].id}"
  authorization_type   = var.jwt == null ? "NONE" : "JWT"
  authorizer_id        = var.jwt == null ? null : aws_apigatewayv2_authorizer.jwt["this"].id
  authorization_scopes = var.jwt == null ? null : var.jwt.scopes
}

resource "aws_cloudwatch_log_group" "api" {
  #checkov:skip=CKV_AWS_158:kms_key_arn sets a customer-managed key; without, CloudWatch Logs encrypts with its own
  #checkov:skip=CKV_AWS_338:log_retention_days decides
  for_each = local.api

  # Below this prefix AWS grants its own delivery; elsewhere a policy grows with every API until it is full.
  name              = "/aws/vendedlogs/http-api/${local.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_apigatewayv2_stage" "this" {
  for_each = local.api

  api_id      = aws_apigatewayv2_api.this[each.key].id
  name        = "$default"
  auto_deploy = true

  default_route_settings {
    detailed_metrics_enabled = true
    throttling_rate_limit    = var.throttle.rate
    throttling_burst_limit   = var.throttle.burst
  }

  access_log_settings {
    destination_arn = aws_cloudwatch_log_group.api[each.key].arn
    format = jsonencode({
      time        = "$context.requestTime"
      request_id  = "$context.requestId"
      method      = "$context.httpMethod"
      route       = "$context.routeKey"
      status      = "$context.status"
      bytes       = "$context.responseLength"
      latency_ms  = "$context.responseLatency"
      function_ms = "$context.integrationLatency"
      error       = "$context.error.message"
      integration = "$context.integrationErrorMessage"
    }) # no address and no agent of the caller: those are personal data
  }
}

resource "aws_lambda_permission" "api" {
  for_each = local.api

  statement_id  = "api"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.this.function_name
  qualifier     = aws_lambda_alias.live.name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_apigatewayv2_api.this[each.key].execution_arn}/*" # any route of this API alone
}
