"""What `componentize-py` begins with: it loads everything that the component exports."""

import handler  # noqa: F401
