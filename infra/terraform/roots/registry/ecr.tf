resource "aws_ecr_repository" "this" {
  #checkov:skip=CKV_AWS_136:kms_key_arn sets a customer-managed key; without, ECR encrypts with AES-256
  name                 = module.names.ecr_repository
  image_tag_mutability = "IMMUTABLE" # what was v1.4.0 stays it
  force_delete         = var.force_destroy

  image_scanning_configuration {
    scan_on_push = true # the release manager asks for the findings before a deploy
  }

  encryption_configuration {
    encryption_type = var.kms_key_arn == null ? "AES256" : "KMS"
    kms_key         = var.kms_key_arn
  }
}

locals {
  # What ECR counts for one release: the service's image and the watcher's, and for each its signature and the statements of
  # provenance and bill of materials, manifests of their own (infra/supply_chain/signature.py). They are no tags that a rule could leave out.
  manifests_per_release = 8
}

# By number and not by tag or age: images are pushed by digest, many without a tag, and any version can be rolled back to.
resource "aws_ecr_lifecycle_policy" "this" {
  repository = aws_ecr_repository.this.name

  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "Keep those of the newest ${var.images_kept} releases with what is signed about them"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = var.images_kept * local.manifests_per_release }
      action       = { type = "expire" }
    }]
  })
}

data "aws_iam_policy_document" "lambda_pulls" {
  statement {
    sid     = "LambdaPulls" # a repository's policy names no resource: it is the repository's
    actions = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }

    condition {
      test     = "StringLike"
      variable = "aws:SourceArn"
      values   = ["arn:${data.aws_partition.this.partition}:lambda:${var.region}:${local.account_id}:function:${var.project}-*"]
    }
  }
}

resource "aws_ecr_repository_policy" "lambda_pulls" {
  repository = aws_ecr_repository.this.name
  policy     = data.aws_iam_policy_document.lambda_pulls.json
}
