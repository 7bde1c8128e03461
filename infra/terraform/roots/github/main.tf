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

  # environment of GitHub => the one `sub` that the tokens of its jobs have
  subjects = { for environment in local.served : environment => "repo:${var.repository}:environment:${environment}" }
  served   = var.environments == null ? toset(keys(local.environments)) : var.environments

  # environment of GitHub => policy => document; those of what this account does not have are left out
  documents = {
    for environment, policies in module.policies : environment => merge(
      { for name in ["push_image", "release", "terraform", "terraform_operations"] : name => policies[name] },
      { for name, document in data.aws_iam_policy_document.key : name => document.json },
      { for name, document in data.aws_iam_policy_document.predictions : name => document.json },
      { for name, document in data.aws_iam_policy_document.retraining : name => document.json },
    )
  }
  attachments = merge([
    for environment in local.served : {
      for policy in local.environments[environment].policies : "${environment}/${policy}" => {
        role = environment, name = policy, document = local.documents[environment][policy]
      } if !contains(local.absent, policy)
    }
  ]...)
  has_signing_key = var.create_signing_key || var.signing_key_arn != null
  signing_key_arn = var.create_signing_key ? one(aws_kms_key.signing[*].arn) : var.signing_key_arn
  absent = concat(
    local.has_signing_key ? [] : ["sign", "verify"],
    var.predictions == null ? ["predictions"] : [],
    var.retraining == null ? ["retraining"] : [],
  )
}

resource "aws_iam_openid_connect_provider" "github" {
  count = var.create_provider ? 1 : 0

  url            = "https://${local.issuer}"
  client_id_list = ["sts.amazonaws.com"] # AWS knows GitHub's certificate: no thumbprint is asked for
}

module "policies" {
  source   = "../../modules/policies"
  for_each = local.environments

  project     = var.project
  environment = each.value.serves
  account_id  = local.account_id
  region      = var.region
  partition   = data.aws_partition.this.partition
  kms_key_arn = var.kms_key_arn
  dns_zone_id = var.dns_zone_id
}

# cosign with --key awskms:///… reads the public key, and where it signs it has the key sign.
data "aws_iam_policy_document" "key" {
  for_each = { for policy, actions in { sign = ["kms:Sign"], verify = [] } : policy => actions if local.has_signing_key }

  statement {
    sid       = "Key"
    actions   = concat(["kms:DescribeKey", "kms:GetPublicKey"], each.value)
    resources = [local.signing_key_arn]
  }
}

# The workflow `drift` reads one object.
data "aws_iam_policy_document" "predictions" {
  for_each = toset(var.predictions == null ? [] : ["predictions"])

  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = ["arn:${data.aws_partition.this.partition}:s3:::${trimprefix(var.predictions, "s3://")}"]
  }
}

# The workflow `retrain` reads captured answers and their labels, and registers what it trained: it deletes and releases nothing.
data "aws_iam_policy_document" "retraining" {
  for_each = toset(var.retraining == null ? [] : ["retraining"])

  source_policy_documents = [module.policies["training"].key]

  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = distinct([for url in values(var.retraining) : "arn:${data.aws_partition.this.partition}:s3:::${split("/", url)[2]}"])
  }

  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = [for url in values(var.retraining) : "arn:${data.aws_partition.this.partition}:s3:::${trimsuffix(trimprefix(url, "s3://"), "/")}/*"] # all captures and models below the prefixes
  }

  statement {
    sid       = "Register"
    actions   = ["s3:PutObject"]
    resources = ["arn:${data.aws_partition.this.partition}:s3:::${trimsuffix(trimprefix(var.retraining.registry, "s3://"), "/")}/*"] # versions have names of their own
  }
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
      test     = "StringEquals" # no pattern: a branch, a fork or a pull request gets nothing
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
  max_session_duration = each.key == "training" ? 21600 : 3600 # seconds; deploy signs in anew before they are over
}

# Managed policies, because IAM takes 10,240 characters for all that stands in a role itself.
resource "aws_iam_policy" "this" {
  for_each = local.attachments

  name        = "${var.project}-github-${each.value.role}-${replace(each.value.name, "_", "-")}"
  description = "GitHub Actions: ${each.value.name} of ${each.value.role}"
  policy      = each.value.document
}

resource "aws_iam_role_policy_attachment" "this" {
  for_each = local.attachments

  role       = aws_iam_role.this[each.value.role].name
  policy_arn = aws_iam_policy.this[each.key].arn
}
