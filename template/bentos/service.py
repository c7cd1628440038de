"""The service: your model behind HTTP.

BentoML serves it and modelyard.serving does the rest: routes, validation by the model's
signature, metrics, prediction log, health. Your own code goes around `super().predict`;
modules beside this file come along into the Bento.
"""

from modelyard.serving import ModelService, Prediction, Row, service


@service()
class Service(ModelService):
    def predict(self, rows: list[Row]) -> list[Prediction]:
        """One prediction a row, in order. The rows fit the model's signature already."""
        return super().predict(rows)
