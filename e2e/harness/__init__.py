"""What every end-to-end suite needs: servers, models, independent references, clients and records."""
