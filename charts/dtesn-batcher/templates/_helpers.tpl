{{- define "dtesn.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- /* Of objects in the release's namespace. */ -}}
{{- define "dtesn.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := include "dtesn.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Of objects of the cluster: two releases of one name in two namespaces must not meet. */ -}}
{{- define "dtesn.clustername" -}}
{{- printf "%s:%s" .Release.Namespace (include "dtesn.fullname" .) -}}
{{- end -}}

{{- /* The same, where a colon is not allowed. */ -}}
{{- define "dtesn.clusterdnsname" -}}
{{- printf "%s.%s.dtesn.dev" (include "dtesn.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- /* Never the labels that select a DTESNBatcher's own pods: app.kubernetes.io/name is another here. */ -}}
{{- define "dtesn.selector" -}}
app.kubernetes.io/name: dtesn-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "dtesn.labels" -}}
{{ include "dtesn.selector" . }}
app.kubernetes.io/part-of: dtesn-batcher
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "dtesn.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "dtesn.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed where serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "dtesn.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "dtesn.selfManaged" -}}
{{- if and .Values.webhook.enabled (eq .Values.webhook.certificates "selfManaged") -}}true{{- end -}}
{{- end -}}

{{- define "dtesn.certManager" -}}
{{- if and .Values.webhook.enabled (eq .Values.webhook.certificates "certManager") -}}true{{- end -}}
{{- end -}}

{{- /* Whether `helm test` makes a namespace for itself. */ -}}
{{- define "dtesn.testNamespaceOwn" -}}
{{- if not (or .Values.tests.namespace .Values.scope.namespaces) -}}true{{- end -}}
{{- end -}}

{{- /* Helm deletes its own after the test, so nobody else's may bear the name: hence the digest. */ -}}
{{- define "dtesn.testNamespace" -}}
{{- $own := printf "%s-%s" (include "dtesn.fullname" .) (printf "%s/%s" .Release.Namespace .Release.Name | sha256sum | trunc 8) -}}
{{- .Values.tests.namespace | default (first (append .Values.scope.namespaces $own)) -}}
{{- end -}}

{{- /* What no schema can say. */ -}}
{{- define "dtesn.check" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "dtesn.fullname" .)) -}}
{{- fail (printf "%s cannot be the name of a Service: give the release another name, or set fullnameOverride" (include "dtesn.fullname" .)) -}}
{{- end -}}
{{- if and .Values.scope.namespaces (include "dtesn.selfManaged" .) -}}
{{- fail "with scope.namespaces the operator has no right to publish the webhook's certificate: set webhook.certificates=certManager, or webhook.enabled=false" -}}
{{- end -}}
{{- if and .Values.admissionPolicy.enabled (has .Release.Namespace .Values.scope.namespaces) -}}
{{- fail (printf "scope.namespaces has the operator's own namespace %s, where the admission policy refuses every DTESNBatcher: install the operator into a namespace of its own, or set admissionPolicy.enabled=false" .Release.Namespace) -}}
{{- end -}}
{{- if and .Values.tests.namespace .Values.scope.namespaces (not (has .Values.tests.namespace .Values.scope.namespaces)) -}}
{{- fail (printf "tests.namespace %s is not among scope.namespaces" .Values.tests.namespace) -}}
{{- end -}}
{{- range .Values.extraObjects -}}
{{- $one := . -}}
{{- if kindIs "string" . -}}{{- $one = tpl . $ | fromYaml -}}{{- end -}}
{{- if eq (dig "kind" "" $one) "DTESNBatcher" -}}
{{- fail "extraObjects has a DTESNBatcher, whose kind is not there yet at the first install: apply it after the release" -}}
{{- end -}}
{{- end -}}
{{- end -}}
