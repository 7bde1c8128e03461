locals {
  domain = var.api && var.domain != null ? { this = var.domain } : {}
}

resource "aws_apigatewayv2_domain_name" "this" {
  for_each = local.domain

  domain_name = each.value.name

  domain_name_configuration {
    certificate_arn = each.value.certificate_arn
    endpoint_type   = "REGIONAL"
    security_policy = "TLS_1_2"
  }
}

resource "aws_apigatewayv2_api_mapping" "this" {
  for_each = local.domain

  api_id      = aws_apigatewayv2_api.this["this"].id
  domain_name = aws_apigatewayv2_domain_name.this[each.key].id
  stage       = aws_apigatewayv2_stage.this["this"].id
}

resource "aws_route53_record" "this" {
  for_each = { for key, domain in local.domain : key => domain if domain.zone_id != null }

  zone_id = each.value.zone_id
  name    = each.value.name
  type    = "A"

  alias {
    name                   = aws_apigatewayv2_domain_name.this[each.key].domain_name_configuration[0].target_domain_name
    zone_id                = aws_apigatewayv2_domain_name.this[each.key].domain_name_configuration[0].hosted_zone_id
    evaluate_target_health = false
  }
}
