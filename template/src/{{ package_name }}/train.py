"""The training loop. `torchrun` runs one process (rank) of this file per core."""

from copy import deepcopy

import torch
from modelyard.pipeline import training
from torch.nn.parallel import DistributedDataParallel

from .network import Network, loss
from .settings import NetworkSettings


def main() -> None:
    with training.session(NetworkSettings) as run:
        settings = run.settings
        network = Network(run.signature, settings.hidden, settings.embedding, settings.dropout)
        network.standardise.fit(run.train.numbers)
        model = DistributedDataParallel(network)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        best, best_loss, best_epoch = deepcopy(network.state_dict()), float("inf"), 0

        for epoch in range(1, settings.epochs + 1):
            model.train()
            total = 0.0
            batches = run.batches(epoch)
            for numbers, categories, target in batches:
                optimizer.zero_grad(set_to_none=True)
                batch_loss = loss(model(numbers, categories), target)
                batch_loss.backward()
                optimizer.step()
                total += batch_loss.item()

            network.eval()
            with torch.no_grad():
                sums = [
                    loss(network(numbers, categories), target) * len(target)
                    for numbers, categories, target in run.validation_batches()
                ]
            validation_loss = run.mean_over_validation(sums)
            run.report(epoch, run.mean_over_ranks(total / len(batches)), validation_loss)

            if validation_loss < best_loss:
                best, best_loss, best_epoch = deepcopy(network.state_dict()), validation_loss, epoch
            elif epoch - best_epoch >= settings.patience:
                break

        run.finish(best, best_epoch, best_loss)


if __name__ == "__main__":
    training.start(main)
