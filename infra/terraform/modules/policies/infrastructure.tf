# What Terraform itself calls to plan, apply and destroy the root `service` of the environment: two documents, because IAM takes 6,144
# characters for one. Whoever may write the policies of
# the function's role may give it anything: protect the environment by reviewers, or bound the role by an organisation's policy.

locals {
  parts = {
    functions = [local.function, "${local.function}:*", "${local.function}-slack", "${local.function}-watch"]
    roles     = [for role in ["function", "slack", "watch"] : "arn:${var.partition}:iam::${var.account_id}:role/${local.name}-${role}"]
    invoke    = "arn:${var.partition}:iam::${var.account_id}:policy/${local.name}-invoke"
    logs = flatten([
      for group in ["/aws/lambda/${local.name}", "/aws/lambda/${local.name}-slack", "/aws/lambda/${local.name}-watch", "/aws/vendedlogs/http-api/${local.name}"] :
      ["arn:${var.partition}:logs:${local.here}:log-group:${group}", "arn:${var.partition}:logs:${local.here}:log-group:${group}:*"]
    ])
    schedule  = "arn:${var.partition}:events:${local.here}:rule/${local.name}-watch"
    failures  = "arn:${var.partition}:sqs:${local.here}:${local.name}-failures"
    dashboard = "arn:${var.partition}:cloudwatch::${var.account_id}:dashboard/${local.name}"
    budget    = "arn:${var.partition}:budgets::${var.account_id}:budget/${local.name}"
    api       = "arn:${var.partition}:apigateway:${var.region}:"
    state     = "arn:${var.partition}:s3:::${module.names.state_bucket}"
  }
}

data "aws_iam_policy_document" "terraform" {
  #checkov:skip=CKV_AWS_356:the statements that name no resource say why
  #checkov:skip=CKV_AWS_111:the statements that name no resource say why
  source_policy_documents = [data.aws_iam_policy_document.key.json]

  statement {
    sid = "Function"
    actions = [
      "lambda:AddPermission",
      "lambda:CreateAlias",
      "lambda:CreateFunction",
      "lambda:CreateFunctionUrlConfig",
      "lambda:DeleteAlias",
      "lambda:DeleteFunction",
      "lambda:DeleteFunctionConcurrency",
      "lambda:DeleteFunctionEventInvokeConfig",
      "lambda:DeleteFunctionUrlConfig",
      "lambda:GetAlias",
      "lambda:GetFunction",
      "lambda:GetFunctionCodeSigningConfig",
      "lambda:GetFunctionConfiguration",
      "lambda:GetFunctionEventInvokeConfig",
      "lambda:GetFunctionUrlConfig",
      "lambda:GetPolicy",
      "lambda:ListVersionsByFunction",
      "lambda:PublishVersion",
      "lambda:PutFunctionConcurrency",
      "lambda:PutFunctionEventInvokeConfig",
      "lambda:RemovePermission",
      "lambda:TagResource",
      "lambda:UntagResource",
      "lambda:UpdateAlias",
      "lambda:UpdateFunctionCode",
      "lambda:UpdateFunctionConfiguration",
      "lambda:UpdateFunctionUrlConfig",
    ]
    resources = local.parts.functions # the function with its versions and aliases, the one that tells Slack, and the watcher
  }

  statement {
    sid       = "NetworkOfTheFunction" # `vpc`: Lambda looks in the name of who sets it
    actions   = ["ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcs"]
    resources = ["*"] # EC2 lists all or none
  }

  statement {
    sid       = "ImageOfTheFunction"
    actions   = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [local.repository]
  }

  statement {
    sid = "Roles"
    actions = [
      "iam:CreateRole",
      "iam:DeleteRole",
      "iam:DeleteRolePolicy",
      "iam:GetRole",
      "iam:GetRolePolicy",
      "iam:ListAttachedRolePolicies",
      "iam:ListInstanceProfilesForRole",
      "iam:ListRolePolicies",
      "iam:PutRolePolicy",
      "iam:TagRole",
      "iam:UntagRole",
      "iam:UpdateAssumeRolePolicy",
      "iam:UpdateRole",
      "iam:UpdateRoleDescription",
    ]
    resources = local.parts.roles
  }

  statement {
    sid       = "RolesOfFunctionsAlone"
    actions   = ["iam:PassRole"]
    resources = local.parts.roles

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["lambda.amazonaws.com"]
    }
  }

  statement {
    sid = "PolicyOfCallers"
    actions = [
      "iam:CreatePolicy",
      "iam:CreatePolicyVersion",
      "iam:DeletePolicy",
      "iam:DeletePolicyVersion",
      "iam:GetPolicy",
      "iam:GetPolicyVersion",
      "iam:ListPolicyVersions",
      "iam:TagPolicy",
      "iam:UntagPolicy",
    ]
    resources = [local.parts.invoke]
  }

  statement {
    sid     = "Api"
    actions = ["apigateway:DELETE", "apigateway:GET", "apigateway:PATCH", "apigateway:POST", "apigateway:PUT"]
    resources = [ # API Gateway makes up the names of its APIs, so none can be named beforehand; REST APIs are not among these
      "${local.parts.api}:/apis", "${local.parts.api}:/apis/*", "${local.parts.api}:/tags/*",
      "${local.parts.api}:/domainnames", "${local.parts.api}:/domainnames/*",
    ]
  }

  statement {
    sid = "CapturedAnswers" # the bucket, none of its objects
    actions = [
      "s3:CreateBucket",
      "s3:DeleteBucket",
      "s3:DeleteBucketPolicy",
      "s3:GetAccelerateConfiguration",
      "s3:GetBucketAcl",
      "s3:GetBucketCORS",
      "s3:GetBucketLogging",
      "s3:GetBucketObjectLockConfiguration",
      "s3:GetBucketOwnershipControls",
      "s3:GetBucketPolicy",
      "s3:GetBucketPublicAccessBlock",
      "s3:GetBucketRequestPayment",
      "s3:GetBucketTagging",
      "s3:GetBucketVersioning",
      "s3:GetBucketWebsite",
      "s3:GetEncryptionConfiguration",
      "s3:GetLifecycleConfiguration",
      "s3:GetReplicationConfiguration",
      "s3:PutBucketOwnershipControls",
      "s3:PutBucketPolicy",
      "s3:PutBucketPublicAccessBlock",
      "s3:PutBucketTagging",
      "s3:PutBucketVersioning",
      "s3:PutEncryptionConfiguration",
      "s3:PutLifecycleConfiguration",
    ]
    resources = [local.captures]
  }

  statement {
    sid       = "State"
    actions   = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
    resources = ["${local.parts.state}/terraform/${var.environment}/*"] # the state and its lock
  }

  statement {
    sid       = "ListTheState" # and look whether the other bucket is there
    actions   = ["s3:ListBucket"]
    resources = [local.parts.state, local.captures]
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [1]

    content {
      sid       = "KeyOfTheFunction"
      actions   = ["kms:CreateGrant", "kms:DescribeKey", "kms:Encrypt"]
      resources = [var.kms_key_arn]
    }
  }
}

# Logs, alarms and who is told.
data "aws_iam_policy_document" "terraform_operations" {
  #checkov:skip=CKV_AWS_356:the statements that name no resource say why
  #checkov:skip=CKV_AWS_111:the statements that name no resource say why
  statement {
    sid = "Logs"
    actions = [
      "logs:AssociateKmsKey",
      "logs:CreateLogGroup",
      "logs:DeleteLogGroup",
      "logs:DeleteRetentionPolicy",
      "logs:DisassociateKmsKey",
      "logs:ListTagsForResource",
      "logs:PutRetentionPolicy",
      "logs:TagResource",
      "logs:UntagResource",
    ]
    resources = local.parts.logs # each group, and its streams
  }

  statement {
    sid = "LogsOfTheApi"
    actions = [
      "logs:CreateLogDelivery",
      "logs:DeleteLogDelivery",
      "logs:DescribeLogGroups",
      "logs:DescribeResourcePolicies",
      "logs:GetLogDelivery",
      "logs:ListLogDeliveries",
      "logs:PutResourcePolicy",
      "logs:UpdateLogDelivery",
    ]
    resources = ["*"] # deliveries are no resources that a policy could name, and a list is of all groups
  }

  statement {
    sid = "Topic"
    actions = [
      "sns:CreateTopic",
      "sns:DeleteTopic",
      "sns:GetTopicAttributes",
      "sns:ListSubscriptionsByTopic",
      "sns:ListTagsForResource",
      "sns:SetTopicAttributes",
      "sns:Subscribe",
      "sns:TagResource",
      "sns:UntagResource",
    ]
    resources = [local.topic]
  }

  statement {
    sid       = "Subscriptions"
    actions   = ["sns:GetSubscriptionAttributes", "sns:SetSubscriptionAttributes", "sns:Unsubscribe"]
    resources = ["*"] # SNS lets no subscription be named in these
  }

  statement {
    sid = "Queue"
    actions = [
      "sqs:CreateQueue",
      "sqs:DeleteQueue",
      "sqs:GetQueueAttributes",
      "sqs:GetQueueUrl",
      "sqs:ListQueueTags",
      "sqs:SetQueueAttributes",
      "sqs:TagQueue",
      "sqs:UntagQueue",
    ]
    resources = [local.parts.failures]
  }

  statement {
    sid = "Schedule"
    actions = [
      "events:DeleteRule",
      "events:DescribeRule",
      "events:ListTagsForResource",
      "events:ListTargetsByRule",
      "events:PutRule",
      "events:PutTargets",
      "events:RemoveTargets",
      "events:TagResource",
      "events:UntagResource",
    ]
    resources = [local.parts.schedule]
  }

  statement {
    sid = "Alarms"
    actions = [
      "cloudwatch:DeleteAlarms",
      "cloudwatch:ListTagsForResource",
      "cloudwatch:PutCompositeAlarm",
      "cloudwatch:PutMetricAlarm",
      "cloudwatch:TagResource",
      "cloudwatch:UntagResource",
    ]
    resources = [local.alarms] # those whose names begin with the environment's
  }

  statement {
    sid       = "ReadTheAlarms"
    actions   = ["cloudwatch:DescribeAlarms"]
    resources = ["*"] # to whom a part of the alarms is named, CloudWatch says nothing of composite ones
  }

  dynamic "statement" {
    for_each = var.dns_zone_id == null ? [] : [var.dns_zone_id]

    content {
      sid       = "NameOfTheApi" # `domain.zone_id`: each plan reads the record
      actions   = ["route53:ChangeResourceRecordSets", "route53:GetChange", "route53:GetHostedZone", "route53:ListResourceRecordSets"]
      resources = ["arn:${var.partition}:route53:::hostedzone/${statement.value}", "arn:${var.partition}:route53:::change/*"] # changes have names of their own
    }
  }

  statement {
    sid       = "Dashboard"
    actions   = ["cloudwatch:DeleteDashboards", "cloudwatch:GetDashboard", "cloudwatch:PutDashboard"]
    resources = [local.parts.dashboard]
  }

  statement {
    sid       = "Budget"
    actions   = ["budgets:ListTagsForResource", "budgets:ModifyBudget", "budgets:TagResource", "budgets:UntagResource", "budgets:ViewBudget"]
    resources = [local.parts.budget]
  }
}
