mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }
}

variables {
  environment = "dev"
  region      = "eu-central-1"
}

run "a_network_is_needed_and_never_the_whole_internet" {
  command = plan

  variables {
    enabled         = true
    client_cidrs    = ["0.0.0.0/0"]
    collector_image = "public.ecr.aws/aws-observability/aws-otel-collector:latest"
    grafana_image   = "grafana/grafana"
  }

  expect_failures = [var.vpc_id, var.subnet_ids, var.client_cidrs, var.collector_image, var.grafana_image]
}
