# Variables of every root, which links to these files.

variable "project" {
  description = "First part of every name in AWS; 2 to 16 lower-case letters, digits and dashes."
  type        = string
  default     = "kiln"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,14}[a-z0-9]$", var.project))
    error_message = "project is 2 to 16 lower-case letters, digits and dashes, and begins with a letter."
  }
}

variable "environment" {
  description = "What this is for: account (shared by all), dev, staging or prod; part of names and of the tag Environment."
  type        = string

  validation {
    condition     = contains(["account", "dev", "staging", "prod"], var.environment)
    error_message = "environment is account, dev, staging or prod; it comes from envs/*.tfvars."
  }
}

variable "region" {
  description = "AWS region of everything here, as eu-central-1."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region is the code of an AWS region, as eu-central-1."
  }
}

variable "tags" {
  description = "Further tags of every resource, beside Project, Environment, Root and ManagedBy."
  type        = map(string)
  default     = {}
}
