"""`/predict` and `/model` over ASGI: dispatch, routes, the bounds of what may wait, OpenAPI.

It knows no model: who answers is handed to it (`routes.Worker`).
"""
