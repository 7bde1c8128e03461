# What all environments of an AWS account share: roots state, registry and github.
environment = "account"
region      = "eu-central-1"
