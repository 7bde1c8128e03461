resource "aws_cloudwatch_log_group" "function" {
  #checkov:skip=CKV_AWS_158:kms_key_arn sets a customer-managed key; without, CloudWatch Logs encrypts with its own
  #checkov:skip=CKV_AWS_338:log_retention_days decides; no request or image is ever in a log
  name              = "/aws/lambda/${local.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_116:failed asynchronous calls go to the queue of async.tf, by the newer way that also says why they failed
  #checkov:skip=CKV_AWS_117:it reaches nothing inside a VPC unless `vpc` puts it beside a collector
  #checkov:skip=CKV_AWS_173:its variables are settings, no secrets; kms_key_arn sets a customer-managed key
  #checkov:skip=CKV_AWS_272:signatures of Lambda are for zip files; the image is pinned by its digest and signed with cosign
  function_name                  = local.name
  description                    = "Kiln's image classifier, ${var.environment}"
  role                           = aws_iam_role.function.arn
  package_type                   = "Image"
  image_uri                      = var.image_uri
  architectures                  = ["x86_64"] # onnxruntime aborts on Lambda's arm64: onnxruntime#10038, #15650
  memory_size                    = var.memory_mb
  timeout                        = var.timeout_s
  reserved_concurrent_executions = var.reserved_concurrency
  kms_key_arn                    = var.kms_key_arn
  publish                        = true # a new digest or setting is a new version; the release manager decides who meets it

  environment {
    variables = merge({ KILN_LOG_FORMAT = "json" }, local.capture_environment, var.function_environment)
  }

  tracing_config {
    mode = var.tracing ? "Active" : "PassThrough"
  }

  dynamic "vpc_config" {
    for_each = var.vpc == null ? [] : [var.vpc]

    content {
      subnet_ids         = vpc_config.value.subnet_ids
      security_group_ids = vpc_config.value.security_group_ids
    }
  }

  dynamic "snap_start" {
    for_each = var.snap_start ? ["PublishedVersions"] : []

    content {
      apply_on = snap_start.value
    }
  }

  lifecycle {
    ignore_changes = [image_config] # the image says what it runs; moto answers with an empty one that nobody asked for
  }

  # The log group: else Lambda makes it, and keeps logs for ever. The policy: Lambda tries it on a network interface.
  depends_on = [aws_cloudwatch_log_group.function, aws_iam_role_policy.function]
}

resource "aws_lambda_alias" "live" {
  name             = local.alias_name
  description      = "What callers get. The release manager shifts it between versions."
  function_name    = aws_lambda_function.this.function_name
  function_version = aws_lambda_function.this.version

  lifecycle {
    # The release manager owns where it points to and in which shares; Terraform only creates it.
    ignore_changes = [function_version, routing_config]
  }
}
