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

run "a_signing_key_is_made_where_none_is_named" {
  variables {
    create_signing_key = true
  }

  assert {
    condition     = aws_kms_key.signing[0].key_usage == "SIGN_VERIFY" && output.signing_key == "awskms:///alias/kiln-signing"
    error_message = "the key cannot sign, or the workflows would not find it"
  }

  assert {
    condition     = contains(keys(aws_iam_policy.this), "build/sign") && contains(keys(aws_iam_policy.this), "production/verify")
    error_message = "nobody may use the key"
  }
}

run "two_signing_keys_are_refused" {
  command = plan

  variables {
    create_signing_key = true
    signing_key_arn    = "arn:aws:kms:eu-central-1:123456789012:key/1"
  }

  expect_failures = [var.create_signing_key]
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
