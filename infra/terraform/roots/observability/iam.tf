data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account_id]
    }
  }
}

# What ECS does before a container runs.
data "aws_iam_policy_document" "execution" {
  statement {
    sid       = "WriteLogs"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["arn:${data.aws_partition.this.partition}:logs:${local.here}:log-group:/ecs/${local.name}-*:log-stream:*"] # of both containers
  }

  statement {
    sid       = "ReadThePassword"
    actions   = ["ssm:GetParameters"]
    resources = [local.password_arn]
  }
}

resource "aws_iam_role" "execution" {
  for_each = local.on

  name               = "${local.name}-observability-execution"
  description        = "ECS starts Kiln's observability in ${var.environment}"
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "execution" {
  for_each = local.on

  name   = "execution"
  role   = aws_iam_role.execution[each.key].id
  policy = data.aws_iam_policy_document.execution.json
}

# What the containers do.
data "aws_iam_policy_document" "task" {
  #checkov:skip=CKV_AWS_111:X-Ray has no resources that a policy could name
  #checkov:skip=CKV_AWS_356:X-Ray and CloudWatch's metrics are no resources that a policy could name
  for_each = local.containers

  statement {
    sid       = "Metrics"
    actions   = each.key == "collector" ? ["aps:RemoteWrite"] : ["aps:GetLabels", "aps:GetMetricMetadata", "aps:GetSeries", "aps:QueryMetrics"]
    resources = [aws_prometheus_workspace.this["this"].arn]
  }

  dynamic "statement" {
    for_each = each.key == "collector" ? [1] : []

    content {
      sid       = "Traces"
      actions   = ["xray:GetSamplingRules", "xray:GetSamplingTargets", "xray:PutTelemetryRecords", "xray:PutTraceSegments"]
      resources = ["*"] # X-Ray has no resources that a policy could name
    }
  }

  dynamic "statement" {
    for_each = each.key == "grafana" ? [1] : []

    content {
      sid       = "CloudWatch"
      actions   = ["cloudwatch:GetMetricData", "cloudwatch:ListMetrics"]
      resources = ["*"] # CloudWatch's metrics are no resources that a policy could name
    }
  }
}

resource "aws_iam_role" "task" {
  for_each = local.containers

  name               = "${local.name}-observability-${each.key}"
  description        = "Kiln ${each.key} in ${var.environment}"
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "task" {
  for_each = local.containers

  name   = "task"
  role   = aws_iam_role.task[each.key].id
  policy = data.aws_iam_policy_document.task[each.key].json
}
