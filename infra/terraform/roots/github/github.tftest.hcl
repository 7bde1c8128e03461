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

  mock_resource "aws_iam_policy" {
    defaults = { arn = "arn:aws:iam::123456789012:policy/kiln" }
  }
}

variables {
  environment = "account"
  region      = "eu-central-1"
  repository  = "owner/name"
}

run "an_account_that_has_the_provider_keeps_it" {
  variables {
    create_provider = false
    environments    = ["build", "production"]
  }

  assert {
    condition     = length(aws_iam_openid_connect_provider.github) == 0
    error_message = "a second provider of the same name is refused by AWS"
  }

  assert {
    condition     = toset(keys(output.role_arns)) == toset(["build", "production"])
    error_message = "there is a role too many, or one is missing"
  }
}

run "patterns_are_refused" {
  command = plan

  variables {
    repository      = "owner/*"
    environments    = ["prod*"]
    signing_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/*"
    predictions     = "s3://bucket/*"
    retraining      = { captures = "s3://bucket/*", registry = "s3://bucket" }
  }

  expect_failures = [var.repository, var.environments, var.signing_key_arn, var.predictions, var.retraining]
}

run "half_of_the_ids_is_refused" {
  command = plan

  variables {
    repository = "owner@1/name"
  }

  expect_failures = [var.repository]
}
