variable "name" {
  description = "Name of the key: its alias without `alias/`."
  type        = string
}

variable "account_id" {
  description = "AWS account, 12 digits, whose IAM policies say who may use and change the key."
  type        = string
}

variable "region" {
  description = "AWS region, as eu-central-1."
  type        = string
}

variable "partition" {
  description = "AWS partition: aws, aws-cn or aws-us-gov."
  type        = string
}
