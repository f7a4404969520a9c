-- `expunge` is made by the image; one database a service.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
