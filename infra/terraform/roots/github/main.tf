# GitHub Actions signs in by its own tokens: no access key is stored anywhere.

data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

locals {
  account_id = data.aws_caller_identity.this.account_id
  issuer     = "token.actions.githubusercontent.com"
  provider_arn = one(concat(
    aws_iam_openid_connect_provider.github[*].arn,
    var.create_provider ? [] : ["arn:${data.aws_partition.this.partition}:iam::${local.account_id}:oidc-provider/${local.issuer}"],
  ))

  # role => the one `sub` that a token must have
  subjects = merge(
    { publish = "repo:${var.repository}:ref:refs/heads/${var.branch}" },
    { for environment in var.environments : "release-${environment}" => "repo:${var.repository}:environment:${environment}" },
  )
  # role => policies of the module
  policies = merge(
    {
      publish = {
        push_image = module.policies["publish"].push_image
        registry   = module.policies["publish"].registry
        dvc        = module.policies["publish"].dvc
      }
    },
    {
      for environment in var.environments : "release-${environment}" => {
        release   = module.policies["release-${environment}"].release
        terraform = module.policies["release-${environment}"].terraform
      }
    },
  )
  attachments = merge([
    for role, documents in local.policies : { for name, document in documents : "${role}/${name}" => { role = role, name = name, document = document } }
  ]...)
}

resource "aws_iam_openid_connect_provider" "github" {
  count = var.create_provider ? 1 : 0

  url            = "https://${local.issuer}"
  client_id_list = ["sts.amazonaws.com"] # AWS knows GitHub's certificate: no thumbprint is asked for
}

module "policies" {
  source   = "../../modules/policies"
  for_each = local.subjects

  project     = var.project
  environment = trimprefix(each.key, "release-")
  account_id  = local.account_id
  region      = var.region
  partition   = data.aws_partition.this.partition
}

data "aws_iam_policy_document" "trust" {
  for_each = local.subjects

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [local.provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }

    condition {
      test     = "StringEquals" # no pattern: a branch of another name, a fork or a pull request gets nothing
      variable = "${local.issuer}:sub"
      values   = [each.value]
    }
  }
}

resource "aws_iam_role" "this" {
  for_each = local.subjects

  name                 = "${var.project}-github-${each.key}"
  description          = "GitHub Actions: ${each.value}"
  assume_role_policy   = data.aws_iam_policy_document.trust[each.key].json
  max_session_duration = 3600 # seconds; the longest canary is a matter of minutes
}

resource "aws_iam_role_policy" "this" {
  for_each = local.attachments

  name   = each.value.name
  role   = aws_iam_role.this[each.value.role].id
  policy = each.value.document
}
