"""Print the server's OpenAPI document."""

import json

from grace_server.app import create_app
from grace_server.settings import Settings

print(json.dumps(create_app(Settings(model="none")).openapi()))
