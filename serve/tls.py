"""TLS to servers that a process of the service calls."""

import ssl


def client_context(authority: str | None = None) -> ssl.SSLContext:
    """Trusts an authority's file, else the system's authorities; certifi's where it has none."""
    context = ssl.create_default_context(cafile=authority)
    if not authority and not context.cert_store_stats()["x509_ca"]:
        import certifi

        context.load_verify_locations(certifi.where())
    return context
