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

variable "repository" {
  description = "GitHub repository whose workflows may sign in, as owner/name."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.repository))
    error_message = "repository is owner/name, with no * and no URL."
  }
}

variable "branch" {
  description = "The one branch whose workflows may push images and models."
  type        = string
  default     = "main"

  validation {
    condition     = can(regex("^[A-Za-z0-9._/-]+$", var.branch))
    error_message = "branch is the whole name of one branch; a pattern would let others in."
  }
}

variable "environments" {
  description = "Environments of GitHub that may release; protect them by reviewers there."
  type        = set(string)
  default     = ["dev", "staging", "prod"]

  validation {
    condition     = length(setsubtract(var.environments, ["dev", "staging", "prod"])) == 0
    error_message = "environments are of dev, staging and prod."
  }
}

variable "create_provider" {
  description = "Whether to make the account's OIDC provider for GitHub; false where another project has made it."
  type        = bool
  default     = true
}
