# What the function may do. Its own code calls S3 alone, where it captures: the rest are Lambda's calls on its behalf.

data "aws_iam_policy_document" "function_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "function" {
  #checkov:skip=CKV_AWS_111:X-Ray and interfaces yet to be made are no resources that a policy could name
  #checkov:skip=CKV_AWS_356:X-Ray and interfaces yet to be made are no resources that a policy could name
  statement {
    sid       = "WriteItsLog"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.function.arn}:log-stream:*"] # its streams, which Lambda names
  }

  dynamic "statement" {
    for_each = aws_sqs_queue.failures

    content {
      sid       = "KeepFailedEvents"
      actions   = ["sqs:SendMessage"]
      resources = [statement.value.arn]
    }
  }

  dynamic "statement" {
    for_each = var.failure_queue && var.kms_key_arn != null ? [1] : []

    content {
      sid       = "EncryptFailedEvents"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [var.kms_key_arn]
    }
  }

  dynamic "statement" {
    for_each = var.capture ? [1] : []

    content {
      sid       = "KeepAnswers" # and read those that feedback is about; nothing is deleted
      actions   = ["s3:GetObject", "s3:PutObject"]
      resources = ["${local.captures_arn}/captures/*", "${local.captures_arn}/labels/*"] # its batches and its labels
    }
  }

  dynamic "statement" {
    for_each = var.capture ? [1] : []

    content {
      sid       = "FindAnswers"
      actions   = ["s3:ListBucket"]
      resources = [local.captures_arn]

      condition {
        test     = "StringLike"
        variable = "s3:prefix"
        values   = ["captures/*", "labels/*"]
      }
    }
  }

  dynamic "statement" {
    for_each = var.capture && var.kms_key_arn != null ? [1] : []

    content {
      sid       = "EncryptAnswers"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [var.kms_key_arn]
    }
  }

  dynamic "statement" {
    for_each = var.vpc == null ? [] : [1]

    content {
      sid = "NetworkInterfaces"
      actions = [ # as in AWS's own AWSLambdaVPCAccessExecutionRole
        "ec2:AssignPrivateIpAddresses",
        "ec2:CreateNetworkInterface",
        "ec2:DeleteNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets",
        "ec2:UnassignPrivateIpAddresses",
      ]
      resources = ["*"] # interfaces that are yet to be made, and EC2 lists all or none
    }
  }

  dynamic "statement" {
    for_each = var.tracing ? [1] : []

    content {
      sid       = "Trace"
      actions   = ["xray:PutTelemetryRecords", "xray:PutTraceSegments"]
      resources = ["*"] # X-Ray has no resources that a policy could name
    }
  }
}

resource "aws_iam_role" "function" {
  name               = "${local.name}-function"
  description        = "Kiln's function in ${var.environment}"
  assume_role_policy = data.aws_iam_policy_document.function_trust.json
}

resource "aws_iam_role_policy" "function" {
  name   = "function"
  role   = aws_iam_role.function.id
  policy = data.aws_iam_policy_document.function.json
}
