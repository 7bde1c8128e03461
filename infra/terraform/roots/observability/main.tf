# Telemetry in managed Prometheus (AMP) and X-Ray by an OTLP collector on ECS Fargate, and Grafana to look at it. Both stay
# inside a VPC that is there already: the function is put into it too (`vpc` of the root `service`). `enabled = false`: nothing.

data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

locals {
  name       = "${var.project}-${var.environment}"
  account_id = data.aws_caller_identity.this.account_id
  here       = "${var.region}:${local.account_id}"
  on         = var.enabled ? { this = true } : {}

  # service => its container
  containers = var.enabled ? {
    collector = {
      image = var.collector_image, port = 4318, cpu = 256, memory = 512
      environment = {
        AOT_CONFIG_CONTENT = templatefile("${path.module}/collector.yaml.tftpl", {
          region = var.region, workspace = aws_prometheus_workspace.this["this"].prometheus_endpoint
        })
      }
      secrets = {}
      health  = ["CMD", "/healthcheck"]
      writes  = false
    }
    grafana = {
      image = var.grafana_image, port = 3000, cpu = 256, memory = 512
      environment = {
        GF_AUTH_SIGV4_AUTH_ENABLED = "true" # AMP takes signed requests alone
        GF_USERS_ALLOW_SIGN_UP     = "false"
      }
      secrets = { GF_SECURITY_ADMIN_PASSWORD = local.password_arn } # pragma: allowlist secret: where it is kept
      health  = ["CMD-SHELL", "wget -q --spider http://localhost:3000/api/health"]
      writes  = true # its SQLite file; dashboards come from the repository, so losing it loses nothing
    }
  } : {}

  password_arn = "arn:${data.aws_partition.this.partition}:ssm:${local.here}:parameter${var.grafana_password_parameter}"
}

resource "aws_prometheus_workspace" "this" {
  #checkov:skip=CKV_AWS_298:AMP encrypts with its own key; a key of ours cannot be changed later
  for_each = local.on

  alias = local.name
}

# From infra/observability/catalogue.toml, as all rules and routes.
resource "aws_prometheus_rule_group_namespace" "this" {
  for_each = local.on

  name         = "kiln"
  workspace_id = aws_prometheus_workspace.this["this"].id
  data         = templatefile("${path.module}/rules.yml.tftpl", {})
}

resource "aws_prometheus_alert_manager_definition" "this" {
  for_each = var.alert_topic_arn == null ? {} : local.on

  workspace_id = aws_prometheus_workspace.this["this"].id
  definition   = templatefile("${path.module}/alertmanager.yml.tftpl", { topic_arn = var.alert_topic_arn, region = var.region })
}
