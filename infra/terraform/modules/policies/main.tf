# What each kind of work may do in AWS, as documents: whoever does the work gets one attached. tests/infra/terraform/test_iam.py
# records what the code really calls, and compares.

module "names" {
  source = "../names"

  project    = var.project
  account_id = var.account_id
  region     = var.region
}

locals {
  name = "${var.project}-${var.environment}"
  here = "${var.region}:${var.account_id}"

  function   = "arn:${var.partition}:lambda:${local.here}:function:${local.name}"
  repository = "arn:${var.partition}:ecr:${local.here}:repository/${module.names.ecr_repository}"
  topic      = "arn:${var.partition}:sns:${local.here}:${local.name}-alarms"
  alarms     = "arn:${var.partition}:cloudwatch:${local.here}:alarm:${local.name}-*"
  models     = "arn:${var.partition}:s3:::${module.names.models_bucket}"
  dvc        = "arn:${var.partition}:s3:::${module.names.dvc_bucket}"
  ledger     = "arn:${var.partition}:s3:::${module.names.ledger_bucket}"
  captures   = "arn:${var.partition}:s3:::${module.names.captures_bucket}-${var.environment}"
}

# Reading and writing what the customer-managed key encrypts: a part of each document below that needs it, empty without a key.
data "aws_iam_policy_document" "key" {
  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

# bazel run //serve:push_image, //infra:push_watch_image
data "aws_iam_policy_document" "push_image" {
  #checkov:skip=CKV_AWS_356:a login to ECR is for the whole registry
  statement {
    sid       = "LogIn"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"] # a login is for the whole registry: ECR lets no resource be named
  }

  statement {
    sid = "PushAndLookWhatIsThere"
    actions = [
      "ecr:BatchCheckLayerAvailability",
      "ecr:BatchGetImage",
      "ecr:CompleteLayerUpload",
      "ecr:GetDownloadUrlForLayer",
      "ecr:InitiateLayerUpload",
      "ecr:PutImage",
      "ecr:UploadLayerPart",
    ]
    resources = [local.repository]
  }
}

# bazel run //ml:registry with KILN_REGISTRY in S3. Deleting is for `gc` of what never became a version; S3 keeps the old version.
data "aws_iam_policy_document" "registry" {
  source_policy_documents = [data.aws_iam_policy_document.key.json]

  statement {
    sid       = "Objects"
    actions   = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
    resources = ["${local.models}/registry/*"] # all objects of the registry
  }

  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [local.models]
  }
}

# bazel run //ml:dvc -- push | pull
data "aws_iam_policy_document" "dvc" {
  source_policy_documents = [data.aws_iam_policy_document.key.json]

  statement {
    sid       = "Objects"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${local.dvc}/dvc/*"] # all objects of the remote
  }

  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [local.dvc]
  }
}

# bazel run //infra:deploy, :rollback, :status, without what Terraform does in it: infrastructure.tf has that.
data "aws_iam_policy_document" "release" {
  #checkov:skip=CKV_AWS_356:CloudWatch's metrics and a login to ECR are no resources that a policy could name
  #checkov:skip=CKV_AWS_111:CloudWatch's metrics are no resources that a policy could name; the namespace is limited
  source_policy_documents = [data.aws_iam_policy_document.key.json]

  statement {
    sid = "MoveTheAlias"
    actions = [
      "lambda:GetAlias",
      "lambda:GetFunction",
      "lambda:GetFunctionConfiguration",
      "lambda:InvokeFunction",
      "lambda:ListVersionsByFunction",
      "lambda:PublishVersion",
      "lambda:UpdateAlias",
    ]
    resources = [local.function, "${local.function}:*"] # the function, its versions and aliases
  }

  statement {
    sid       = "ShadowAsTheAlias" # a version's events are retried and kept as the alias's are
    actions   = ["lambda:GetFunctionEventInvokeConfig", "lambda:PutFunctionEventInvokeConfig"]
    resources = [local.function, "${local.function}:*"] # the function, its versions and aliases
  }

  statement {
    sid = "CheckTheImage" # its findings and, with cosign, its signature
    actions = [
      "ecr:BatchGetImage",
      "ecr:DescribeImageScanFindings",
      "ecr:DescribeImages",
      "ecr:DescribeRepositories",
      "ecr:GetDownloadUrlForLayer",
    ]
    resources = [local.repository]
  }

  statement {
    sid       = "LogIn"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"] # a login is for the whole registry: ECR lets no resource be named
  }

  statement {
    sid       = "ReadTheEvidence"
    actions   = ["logs:FilterLogEvents"]
    resources = ["arn:${var.partition}:logs:${local.here}:log-group:/aws/lambda/${local.name}:*"] # its streams
  }

  statement {
    sid       = "ReadTheAlarms"
    actions   = ["cloudwatch:DescribeAlarms"]
    resources = ["*"] # to whom a part of the alarms is named, CloudWatch says nothing of composite ones
  }

  statement {
    sid       = "ReadTheMetrics"
    actions   = ["cloudwatch:GetMetricData"]
    resources = ["*"] # CloudWatch's metrics are no resources that a policy could name
  }

  statement {
    sid       = "SayWhatWasDecided"
    actions   = ["cloudwatch:PutMetricData"]
    resources = ["*"] # as above, so the namespace is limited instead

    condition {
      test     = "StringEquals"
      variable = "cloudwatch:namespace"
      values   = ["Kiln"]
    }
  }

  statement {
    sid       = "TellPeople"
    actions   = ["sns:Publish"]
    resources = [local.topic]
  }

  # No permission to delete: what was decided stays.
  statement {
    sid       = "KeepTheLedger"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${local.ledger}/${var.environment}/*"] # the environment's records
  }

  statement {
    sid       = "ReadTheRegistry"
    actions   = ["s3:GetObject"]
    resources = ["${local.models}/registry/*"] # all objects of the registry
  }

  statement {
    sid       = "ReadTheLabels" # where `[labels]` names the bucket
    actions   = ["s3:GetObject"]
    resources = ["${local.captures}/captures/*", "${local.captures}/labels/*"] # its batches and its labels
  }

  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [local.captures, local.ledger, local.models]
  }
}
