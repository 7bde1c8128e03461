provider "aws" {
  region = var.region

  default_tags {
    tags = merge(var.tags, {
      Project     = var.project
      Environment = var.environment
      Root        = basename(abspath(path.root))
      ManagedBy   = "terraform"
    })
  }
}
