terraform {
  required_version = ">= 1.11.0, < 2.0.0" # the first with use_lockfile for everybody

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100.0, < 7.0.0"
    }
  }

  # Bucket, key and region are given by `init -backend-config`.
  backend "s3" {
    encrypt      = true
    use_lockfile = true # an object beside the state, written with If-None-Match: no DynamoDB table
  }
}
