"""TLS for the service's outgoing connections."""

import ssl


def client_context(authority: str | None = None) -> ssl.SSLContext:
    """Trusts a given CA file, else the system's CAs, else certifi's."""
    context = ssl.create_default_context(cafile=authority)
    if not authority and not context.cert_store_stats()["x509_ca"]:
        import certifi

        context.load_verify_locations(certifi.where())
    return context
