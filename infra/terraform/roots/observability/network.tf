# collector.kiln-dev.internal and grafana.kiln-dev.internal, inside the VPC alone.
resource "aws_service_discovery_private_dns_namespace" "this" {
  for_each = local.on

  name        = "${local.name}.internal"
  description = "Kiln's observability in ${var.environment}"
  vpc         = var.vpc_id
}

resource "aws_service_discovery_service" "this" {
  for_each = local.containers

  name = each.key

  dns_config {
    namespace_id = aws_service_discovery_private_dns_namespace.this["this"].id

    dns_records {
      type = "A"
      ttl  = 10 # seconds
    }
  }
}

resource "aws_security_group" "this" {
  for_each = local.containers

  name        = "${local.name}-${each.key}"
  description = "Kiln ${each.key} in ${var.environment}"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "this" {
  for_each = merge([
    for name, container in local.containers : { for cidr in var.client_cidrs : "${name} ${cidr}" => { group = name, port = container.port, cidr = cidr } }
  ]...)

  security_group_id = aws_security_group.this[each.value.group].id
  description       = "From inside the VPC"
  cidr_ipv4         = each.value.cidr
  from_port         = each.value.port
  to_port           = each.value.port
  ip_protocol       = "tcp"
}

resource "aws_vpc_security_group_egress_rule" "this" {
  for_each = local.containers

  security_group_id = aws_security_group.this[each.key].id
  description       = "AWS's APIs and the registries of images, by TLS"
  cidr_ipv4         = "0.0.0.0/0"
  from_port         = 443
  to_port           = 443
  ip_protocol       = "tcp"
}
