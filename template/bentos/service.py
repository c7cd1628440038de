"""The service: your model behind HTTP.

BentoML serves it and modelyard.serving does the rest: routes, validation by the model's
signature, batches, metrics, prediction log, health.
"""

from modelyard.serving import ModelService, service


@service()
class Service(ModelService):
    """Your own code goes around the model by overriding `predict`, sync or async:

        def predict(self, rows: list[Row]) -> list[Prediction]:
            return super().predict(rows)

    The rows fit the model's signature; it gives one prediction a row, in order. Modules
    beside this file come along into the Bento.
    """
