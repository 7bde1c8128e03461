output "otlp_endpoint" {
  description = "OTEL_EXPORTER_OTLP_ENDPOINT of the function, which must be in the same VPC; empty if switched off."
  value       = var.enabled ? "http://collector.${local.name}.internal:4318" : ""
}

output "grafana_url" {
  description = "Grafana, from inside the VPC; empty if switched off."
  value       = var.enabled ? "http://grafana.${local.name}.internal:3000" : ""
}

output "prometheus_workspace" {
  description = "Id of the AMP workspace; empty if switched off."
  value       = try(aws_prometheus_workspace.this["this"].id, "")
}
