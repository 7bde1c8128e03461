"""Addresses of databases, as people may see them."""

from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError


def without_password(address: str) -> str:
    """The address with stars for its password; of a text that is no address, nothing."""
    try:
        return make_url(address).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "(not a database's address)"
